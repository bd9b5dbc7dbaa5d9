import { Command, InvalidArgumentError } from 'commander';
import type { UpOptions } from '../stack/up.js';
import { dataDirOf } from '../with-store.js';

export function upCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('up')
    .option('--port <port>', 'port for partners', parsePort, 3000)
    .option('--console-port <port>', 'port of the Bull dashboard', parsePort, 3001)
    .option('--host <address>', 'address to listen on', parseHost, '127.0.0.1')
    .option('--data-dir <folder>', 'where the embedded database is kept', dataDirOf(env))
    .description('Run everything in this terminal: PostgreSQL, migrations, a demo project, ingress, worker, console.')
    .action(async (options: UpOptions) => {
      const { up } = await import('../stack/up.js'); // with the queue, which takes long to load
      await up(options, env);
    });
}

/** An empty one, of a variable that is not set, would be all addresses. */
function parseHost(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65_535)
    throw new InvalidArgumentError('It must be a number from 1 to 65535.');
  return port;
}
