import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findFreePort } from '@opm/embedded';
import { createCertificates, startNginx } from '@opm/testkit';

const CONFIG = join(import.meta.dirname, '../deploy/nginx.conf');

/** Starts nginx with deploy/nginx.conf in front of ingresses on these loopback ports. It also listens without TLS. */
export async function startFront(ports: readonly number[]) {
  const directory = await mkdtemp(join(tmpdir(), 'opm-front-'));
  const { cert, key } = await createCertificates(directory);
  const [port, tlsPort] = [await findFreePort(), await findFreePort()];
  const shipped = await readFile(CONFIG, 'utf8');
  const upstreams = [...ports];
  const config = shipped
    .replace(/\b127\.0\.0\.1:301\d\b/g, () => `127.0.0.1:${upstreams.shift()}`)
    .replace('443 ssl', `127.0.0.1:${tlsPort} ssl;\n  listen 127.0.0.1:${port}`)
    .replace(/\/etc\/nginx\/.*\.crt/, cert)
    .replace(/\/etc\/nginx\/.*\.key/, key)
    .replace('/var/log/nginx/', '');
  if (upstreams.length > 0) throw new Error(`${CONFIG} lists fewer ports than ${ports.length}`);
  const log = "log_format answers '$status after $upstream_status';\naccess_log answers.log answers;\n";
  const nginx = await startNginx({ directory, config: log + config, port });
  return {
    url: `http://127.0.0.1:${port}`,
    tlsPort,
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
