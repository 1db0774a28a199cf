// A web server in a test's namespace: node ovnServer.ts NAME PORT… answers every request with "NAME CLIENT-ADDRESS".

import { createServer } from 'node:http';

const [name, ...ports] = process.argv.slice(2);
let listening = 0;
for (const port of ports) {
  createServer((request, response) => {
    const body = `${name} ${request.socket.remoteAddress}\n`;
    response.writeHead(200, { 'content-length': body.length, connection: 'close' });
    response.end(body);
  }).listen(Number(port), '0.0.0.0', () => {
    listening++;
    if (listening === ports.length) console.log('ready');
  });
}
