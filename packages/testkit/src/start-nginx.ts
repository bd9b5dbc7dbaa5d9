import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram } from './find-program.js';
import { type RunningProgram, startProgram } from './start-program.js';

export interface NginxOptions {
  /** Where it keeps its files; stays when it stops. */
  directory: string;
  /** What stands in its `http` block. */
  config: string;
  /** That the configuration listens on. */
  port: number;
}

/** Runs the nginx of this machine; root on Debian gets it installed. Throws with its log where it does not come up. */
export async function startNginx({ directory, config, port }: NginxOptions): Promise<RunningProgram> {
  const program = await findProgram({
    title: 'nginx',
    names: ['nginx'],
    aptPackages: ['nginx'],
    otherwise: 'brew install nginx (or your package manager)',
  });
  const prefix = join(directory, 'nginx');
  await mkdir(prefix);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${name};`);
  const configFile = join(prefix, 'nginx.conf');
  const account = process.geteuid?.() === 0 ? 'user root;' : '';
  const main = `${account} daemon off; master_process on; worker_processes 2; pid nginx.pid; error_log error.log;`;
  await writeFile(configFile, `${main}\nevents {}\nhttp {\n${paths.join('\n')}\n${config}\n}\n`);
  return startProgram({ program, args: ['-p', prefix, '-c', configFile], port, logFile: join(prefix, 'output.log') });
}
