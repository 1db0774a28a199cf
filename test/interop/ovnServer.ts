// A web server in a test's namespace: node ovnServer.ts NAME PORT… answers every request with "NAME CLIENT-ADDRESS", over
// IPv4 and IPv6.

import { createServer } from 'node:http';

const [name, ...ports] = process.argv.slice(2);
let listening = 0;
for (const port of ports) {
  for (const host of ['0.0.0.0', '::']) {
    createServer((request, response) => {
      const body = `${name} ${request.socket.remoteAddress}\n`;
      response.writeHead(200, { 'content-length': body.length, connection: 'close' });
      response.end(body);
    }).listen({ port: Number(port), host, ipv6Only: host === '::' }, () => {
      listening++;
      if (listening === 2 * ports.length) console.log('ready');
    });
  }
}
