import { fileURLToPath } from 'node:url';
import { defineConfig } from 'prisma/config';

// Prisma downloads its schema engine as a native binary; this one is the same engine from npm, so that building and
// migrating need the npm registry and nothing else.
process.env.PRISMA_SCHEMA_ENGINE_BINARY ??= fileURLToPath(new URL('tools/schema-engine.mjs', import.meta.url));

export default defineConfig({
  schema: 'prisma/schema.prisma',
  migrations: { path: 'prisma/migrations' },
  // `prisma generate` needs no database: an empty URL is refused only where one is used.
  datasource: { url: process.env.DATABASE_URL ?? '' },
});
