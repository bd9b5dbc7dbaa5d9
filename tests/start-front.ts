import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findFreePort } from '@opm/embedded';
import { findProgram, type RunningProgram, startProgram } from '@opm/testkit';
import { createCertificates } from './create-certificates.js';

const CONFIG = join(import.meta.dirname, '../deploy/nginx.conf');

/**
 * Starts nginx with deploy/nginx.conf in front of ingresses, and maybe a console, on these loopback ports. It also
 * listens without TLS.
 */
export async function startFront(ports: readonly number[], { consolePort = 3001, operators = '203.0.113.0/24' } = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'opm-front-'));
  const certificates = await createCertificates(directory);
  const [port, tlsPort, redirectPort] = [await findFreePort(), await findFreePort(), await findFreePort()];
  const shipped = await readFile(CONFIG, 'utf8');
  const upstreams = [...ports];
  const config = shipped
    .replace(/\b127\.0\.0\.1:301\d\b/g, () => `127.0.0.1:${upstreams.shift()}`)
    .replace('listen 443 ssl;', `listen 127.0.0.1:${tlsPort} ssl;\n  listen 127.0.0.1:${port};`)
    .replace('listen 443 ssl;', `listen 127.0.0.1:${tlsPort} ssl;`)
    .replace('listen 80;', `listen 127.0.0.1:${redirectPort};`)
    .replace('127.0.0.1:3001', `127.0.0.1:${consolePort}`)
    .replace('203.0.113.0/24', operators)
    .replace('/var/www/html', directory)
    .replace(/\/etc\/letsencrypt\/.*\/fullchain.pem/, certificates.cert)
    .replace(/\/etc\/letsencrypt\/.*\/privkey.pem/, certificates.key)
    .replaceAll(/access_log .*opm;/g, '$&\n  access_log answers.log answers;')
    .replaceAll('/var/log/nginx/', '');
  if (upstreams.length > 0) throw new Error(`${CONFIG} lists fewer ports than ${ports.length}`);
  const log = "log_format answers '$status after $upstream_status';\naccess_log answers.log answers;\n";
  const nginx = await startNginx({ directory, config: log + config, port });
  return {
    url: `http://127.0.0.1:${port}`,
    tlsPort,
    redirectPort,
    /** Its files, and what is below `/.well-known`. */
    directory,
    certificates,
    /** Reads the configuration and the certificates anew, as `nginx -s reload` does. */
    reload: () => process.kill(nginx.pid, 'SIGHUP'),
    /** The status of each answer, followed by those of the ingresses that nginx tried. */
    async readAnswers(): Promise<string[]> {
      return (await readFile(join(directory, 'nginx/answers.log'), 'utf8')).trim().split('\n');
    },
    async stop(): Promise<void> {
      await nginx.stop();
      await rm(directory, { recursive: true });
    },
  };
}

interface NginxOptions {
  /** Directory of its files; it is kept when nginx stops. */
  directory: string;
  /** The content of the `http` block. */
  config: string;
  /** The port that the configuration listens on. */
  port: number;
}

/**
 * Runs the nginx of this machine; as root on Debian, installs it if it is missing.
 * @throws Error with the log if it does not start
 */
async function startNginx({ directory, config, port }: NginxOptions): Promise<RunningProgram> {
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
