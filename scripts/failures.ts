// A reporter of node:test that writes a line for each test that failed: file, names, and how the message begins. `npm
// test` collects them and shows them once more at its end, where a log that was cut short still has them.

import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

const LINE_MAX = 400;

/** The message of what a test threw, without what the runner wraps around it. */
function messageOf(error: Error | undefined): string {
  const cause = error?.cause;
  return cause instanceof Error ? cause.message : String(cause ?? error?.message ?? '');
}

// node:test loads a reporter by its default export.
export default async function* failures(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    if (event.type !== 'test:fail') continue;
    const { name, file = '', details } = event.data;
    const message = messageOf(details.error);
    // A suite fails with its tests: they speak for themselves.
    if (/^\d+ subtests? failed$/.test(message)) continue;
    const text = `${relative(process.cwd(), file)}: ${name}: ${message.replace(/\s+/g, ' ')}`;
    yield `${text.slice(0, LINE_MAX)}\n`;
  }
}
