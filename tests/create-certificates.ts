import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findProgram } from '@opm/testkit';

/** Paths of PEM files. */
export interface Certificates {
  /** Certificate of a private authority, which clients must be told to trust. */
  ca: string;
  /** Certificate for 127.0.0.1 and no other name, issued by `ca`. */
  cert: string;
  key: string;
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** Creates a certificate authority and a server certificate in that directory, valid for one day. */
export async function createCertificates(directory: string): Promise<Certificates> {
  const openssl = await findProgram({
    title: 'OpenSSL',
    names: ['openssl'],
    aptPackages: ['openssl'],
    otherwise: 'brew install openssl (or your package manager)',
  });
  const run = (...args: string[]) => promisify(execFile)(openssl, args, { cwd: directory });
  const extensions = 'subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n';
  await writeFile(join(directory, 'server.ext'), extensions);
  await run('req', '-x509', ...KEY, '-keyout', 'ca.key', '-out', 'ca.crt', '-days', '1', '-subj', '/CN=OPM test CA');
  await run('req', ...KEY, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=OPM test server');
  const issuer = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial'];
  await run(
    'x509',
    '-req',
    '-in',
    'server.csr',
    ...issuer,
    '-days',
    '1',
    '-extfile',
    'server.ext',
    '-out',
    'server.crt',
  );
  const [ca, cert, key] = ['ca.crt', 'server.crt', 'server.key'].map((name) => join(directory, name));
  return { ca, cert, key } as Certificates;
}
