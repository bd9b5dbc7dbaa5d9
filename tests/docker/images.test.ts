import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from '@jest/globals';

const RUN = process.env.OPM_TEST_COMPOSE_RUN as string;
const REVISION = 'a'.repeat(40);

const docker = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)('docker', args, { maxBuffer: 64 * 1024 * 1024 })).stdout;

type Package = { name?: string; version?: string; integrity?: string; link?: true };
const readJson = (file: string) => JSON.parse(readFileSync(file, 'utf8'));
const { version } = readJson('package.json');
const locked: Record<string, Package> = readJson('package-lock.json').packages;

const lockedPackages = new Set(
  Object.entries(locked).map(([path, { name, version }]) => `${name ?? path.split('node_modules/').at(-1)}@${version}`),
);

/** Runs in a container and prints what is there. */
const PROBE = `
  const { execFileSync } = require('node:child_process');
  const { existsSync, globSync, readFileSync } = require('node:fs');
  const { delimiter, join } = require('node:path');
  const find = (...args) => execFileSync('sh', ['-c', 'find "$@" 2> /dev/null || true', 'sh', ...args], { encoding: 'utf8' })
    .split('\\n').filter(Boolean);
  const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'));
  const folders = globSync('**/node_modules/{*,@*/*}/package.json', { exclude: (name) => name === '.bin' });
  const workspaces = globSync('{apps,packages}/*/package.json');
  import('/opm/packages/runtime/dist/index.js').then(async ({ createMetrics }) => console.log(JSON.stringify({
    installed: readJson('node_modules/.package-lock.json').packages,
    packages: [...folders, ...workspaces].map(readJson).map(({ name, version }) => name + '@' + version),
    sbom: readJson('sbom.cdx.json'),
    tools: process.env.PATH.split(delimiter).flatMap((folder) =>
      ['npm', 'npx', 'yarn', 'corepack'].map((name) => join(folder, name)).filter(existsSync)),
    setuid: find('/', '-xdev', '-type', 'f', '-perm', '/6000'),
    writable: find('/opm', '-writable', '!', '-type', 'l'),
    build: /opm_build_info[{].*/.exec(await createMetrics({ process: 'x' }).render())[0],
  })));`;

type Probed = {
  installed: Record<string, Package>;
  packages: string[];
  sbom: {
    bomFormat: string;
    specVersion: string;
    metadata: { component: Package };
    components: { 'bom-ref': string }[];
  };
  tools: string[];
  setuid: string[];
  writable: string[];
  build: string;
};

describe.each([
  ['ingress', []],
  ['worker', []],
  ['console', []],
  ['cli', ['--target', 'migrate']],
])('the image of %s', (app, options) => {
  const image = `opm-${app}:${RUN}-images`;
  let probed: Probed;

  beforeAll(async () => {
    const args = ['APP', 'REVISION', 'SOURCE'].flatMap((name) => ['--build-arg', name]);
    const env = { ...process.env, APP: app, REVISION, SOURCE: 'https://git.example.com/opm' };
    await promisify(execFile)('docker', ['build', '--quiet', '--tag', image, ...args, ...options, '.'], { env });
    probed = JSON.parse(await docker('run', '--rm', '--network', 'none', '--entrypoint', 'node', image, '-e', PROBE));
  });

  test('contains only packages of package-lock.json, at its versions and with its checksums', () => {
    const { installed, packages } = probed;
    expect(packages.filter((name) => !lockedPackages.has(name))).toEqual([]);
    expect(Object.keys(installed).length).toBeGreaterThan(50);
    for (const [path, { version, integrity, link }] of Object.entries(installed)) {
      const { version: lockedVersion, integrity: lockedIntegrity } = locked[path] ?? {};
      expect([path, version, integrity, link]).toEqual([path, lockedVersion, lockedIntegrity, locked[path]?.link]);
    }
  });

  test('lists every installed package in its SBOM', () => {
    const { sbom, packages } = probed;
    expect(sbom).toMatchObject({ bomFormat: 'CycloneDX', specVersion: '1.5', metadata: { component: { version } } });
    const listed = sbom.components.map((component) => component['bom-ref']);
    expect([...new Set(listed)].sort()).toEqual([...new Set(packages)].sort());
  });

  test('tells its release and commit, in its labels and its metrics', async () => {
    const { Labels } = JSON.parse(await docker('image', 'inspect', '--format', '{{json .Config}}', image));
    expect(Labels).toEqual({
      'org.opencontainers.image.title': `opm-${app}`,
      'org.opencontainers.image.description': expect.stringContaining('OPM Partners API'),
      'org.opencontainers.image.version': version,
      'org.opencontainers.image.revision': REVISION,
      'org.opencontainers.image.source': 'https://git.example.com/opm',
      'org.opencontainers.image.licenses': 'MIT',
      'org.opencontainers.image.base.name': 'node:24-slim',
    });
    expect(probed.build).toContain(`version="${version}",revision="${REVISION}",node="v24.`);
  });

  test('runs as a numbered user who can change no file of it, without package managers and set-uid programs', async () => {
    expect(await docker('image', 'inspect', '--format', '{{.Config.User}}', image)).toBe('1000:1000\n');
    expect(probed).toMatchObject({ tools: [], setuid: [], writable: [] });
  });
});
