// Part of `npm run verify`: the budgets of this codebase. A reader's time is limited, so a document or a file that
// outgrows its budget fails here. Biome checks import cycles and undeclared dependencies (biome.json).
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));

/** Words, counted as `wc -w` does. */
const WORDS = {
  'README.md': 1_200,
  'ARCHITECTURE.md': 1_700,
  'CONTRIBUTING.md': 900,
  'SECURITY.md': 900,
  'bench/README.md': 1_500,
  'docs/README.md': 300,
  'docs/chaos-report.md': 1_000,
  'docs/chaos.md': 1_500,
  'docs/configuration.md': 1_500,
  'docs/console.md': 900,
  'docs/data.md': 1_500,
  'docs/backup.md': 1_500,
  'docs/deploy.md': 1_500,
  'docs/development.md': 500,
  'docs/monitoring.md': 1_500,
  'docs/partners.md': 3_000,
  'docs/postgresql.md': 1_500,
  'docs/redis-cluster.md': 1_500,
  'docs/runbook.md': 1_500,
  'docs/scaling.md': 1_000,
  'docs/secrets.md': 1_500,
  'docs/status.md': 1_100,
  'docs/systemd.md': 800,
  'docs/upgrade.md': 1_000,
};
/** These keep reasons and history; they are looked up, not read. */
const UNLIMITED = ['docs/decisions.md'];

/**
 * The packages that the sources of each app and package may import. Imports go down: apps → operations → store, queue,
 * runtime → contract → core.
 */
const BELOW = ['contract', 'core'];
const SERVICES = ['queue', 'runtime', 'store', ...BELOW];
const MAY_IMPORT = {
  core: [],
  contract: ['core'],
  client: [],
  embedded: [],
  runtime: BELOW,
  store: BELOW,
  queue: BELOW,
  operations: ['queue', 'store', ...BELOW],
  testkit: ['embedded'],
  ingress: SERVICES,
  worker: SERVICES,
  console: ['operations', ...SERVICES],
  cli: ['embedded', 'operations', ...SERVICES],
};

const MAX_FILES = 229;
const MIN_MEDIAN_LINES = 80;
const SHORT_LINES = 40;
const MAX_SHORT_SHARE = 0.25;
const MAX_LINES = 300;
const MAX_COLUMNS = 120;
const MAX_JOURNEY_FILES = 12;
const MAX_INGRESS_DEPTH = 9;
const MAX_VARIABLES = 30;

const problems = [];
const expect = (holds, problem) => holds || problems.push(problem);
const expectAtMost = (what, value, most) => expect(value <= most, `${what}: ${value}, at most ${most}`);

const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { encoding: 'utf8' })
  .split('\n')
  .filter((file) => file && existsSync(file));
const read = (file) => readFileSync(file, 'utf8');
const countLines = (file) => read(file).split('\n').length - 1;

for (const file of Object.keys(WORDS)) expect(existsSync(file), `${file} is missing, but has a word limit`);
for (const file of files.filter((name) => /^docs\/[^/]*\.md$/.test(name) || name in WORDS)) {
  if (UNLIMITED.includes(file)) continue;
  // `npm run bench` writes these sections, however long they are.
  const text = read(file).replace(/<!-- [\w-]+:start -->.*?<!-- [\w-]+:end -->/gs, '');
  const words = text.split(/\s+/).filter(Boolean).length;
  if (file in WORDS) expectAtMost(`words in ${file}`, words, WORDS[file]);
  else problems.push(`${file} has no word limit: give it one in tools/check-budgets.mjs`);
}

const products = files.filter(
  (file) => /^(apps|packages|bench|chaos)\/.*\.(tsx?|mjs|js|lua)$/.test(file) && !/\.test\.|\/test\//.test(file),
);
const lines = products.map(countLines).sort((a, b) => a - b);
expectAtMost('product files', products.length, MAX_FILES);
expect(lines[lines.length >> 1] >= MIN_MEDIAN_LINES, `median lines of a file: ${lines[lines.length >> 1]}`);
expectAtMost(
  'share of short files',
  lines.filter((count) => count < SHORT_LINES).length / lines.length,
  MAX_SHORT_SHARE,
);
for (const file of products) expectAtMost(`lines in ${file}`, countLines(file), MAX_LINES);

// Biome breaks long lines of code, but not comments.
for (const file of files.filter((name) => /\.(tsx?|mjs|js)$/.test(name))) {
  for (const [i, line] of read(file).split('\n').entries()) {
    if (/^\s*(\/?\*|\/\/)/.test(line))
      expectAtMost(`columns of the comment ${file}:${i + 1}`, line.length, MAX_COLUMNS);
  }
}

for (const file of files) {
  const [, owner] = /^(?:apps|packages)\/([^/]+)\/src\/.*\.tsx?$/.exec(file) ?? [];
  // The client's own tests compare it with the contract.
  if (!owner || (owner === 'client' && file.endsWith('.test.ts'))) continue;
  const allowed = MAY_IMPORT[owner]?.map((name) => `@opm/${name}`);
  if (!allowed) problems.push(`${owner} may import nothing yet: list it in tools/check-budgets.mjs`);
  for (const [, name] of read(file).matchAll(/(?:from|import\() ?'(@opm\/[^/']+)/g)) {
    expect(!allowed || allowed.includes(name), `${file} must not import ${name}`);
  }
}

function importsOf(file) {
  const targets = [...read(file).matchAll(/from '(\.[^']+)\.js'/g)].map(([, path]) =>
    normalize(join(dirname(file), `${path}.ts`)),
  );
  return targets.filter((target) => existsSync(target));
}
const depthOf = (file) => 1 + Math.max(0, ...importsOf(file).map(depthOf));
expectAtMost('depth of the imports of the ingress', depthOf('apps/ingress/src/main.ts'), MAX_INGRESS_DEPTH);

const journey =
  read('ARCHITECTURE.md')
    .split('\n## ')
    .find((section) => section.startsWith('Journey of one entry')) ?? '';
const names = journey.split('\nVariants')[0].match(/[\w-]+\.ts\b/g) ?? [];
const named = new Set(names.filter((name) => name !== 'x.ts'));
expect(named.size > 0, 'ARCHITECTURE.md has no journey of one entry');
expectAtMost('files in the journey of one entry', named.size, MAX_JOURNEY_FILES);
for (const name of named)
  expect(
    products.some((file) => file.endsWith(`/${name}`)),
    `${name} does not exist`,
  );

const specs = [
  'packages/runtime/src/env.ts',
  ...products.filter((file) => /^apps\/(ingress|worker|console)\/src\/(config|compose)\.ts$/.test(file)),
];
const variables = new Set(
  specs.flatMap((file) => [...read(file).matchAll(/^ {2}([A-Z][A-Z0-9_]+): \w+\(/gm)].map(([, name]) => name)),
);
expectAtMost('environment variables', variables.size, MAX_VARIABLES);

for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
else
  console.log(
    `${products.length} files, median ${lines[lines.length >> 1]} lines, ${variables.size} variables: within budget`,
  );
