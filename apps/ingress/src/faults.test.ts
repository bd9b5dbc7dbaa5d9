import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { FAULTS } from '@opm/contract';

test('every fault that is documented is one that the ingress can give', () => {
  const folder = new URL('.', import.meta.url);
  const files = readdirSync(folder).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'));
  const readers = ['entry', 'idempotency-key', 'parse-json'].map((name) => `../../../packages/contract/src/${name}.ts`);
  const source = [...readers, ...files]
    .map((name) => new URL(name, folder))
    .map((file) => readFileSync(file, 'utf8'))
    .join();
  for (const code of Object.keys(FAULTS)) expect(source).toContain(`'${code}'`);
});
