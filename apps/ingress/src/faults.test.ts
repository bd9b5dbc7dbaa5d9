import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { FAULTS } from '@opm/contract';

test('the ingress can return every documented fault', () => {
  const folder = new URL('.', import.meta.url);
  const files = readdirSync(folder, { encoding: 'utf8', recursive: true }).filter((name) =>
    /(?<!\.test)\.ts$/.test(name),
  );
  const readers = ['entry', 'reads'].map((name) => `../../../packages/contract/src/${name}.ts`);
  const source = [...readers, ...files]
    .map((name) => new URL(name, folder))
    .map((file) => readFileSync(file, 'utf8'))
    .join();
  for (const code of Object.keys(FAULTS)) expect(source).toContain(`'${code}'`);
});
