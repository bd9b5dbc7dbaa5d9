// Puts the page of GET /docs into dist: the files of docs/ and the viewer, each under a name that changes with its content,
// and compressed, so that the ingress has nothing to do but send them.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import scalar from '@scalar/fastify-api-reference';
import fastify from 'fastify';

const SOURCE = new URL('../docs/', import.meta.url);
const TARGET = new URL('../dist/docs/', import.meta.url);

/** Scalar's own package comes with 270 others; its plugin for Fastify has the viewer in one file, and serves it. */
async function readViewer() {
  const app = fastify();
  await app.register(scalar, { routePrefix: '/docs', configuration: { url: '/openapi.json' } });
  const { statusCode, body } = await app.inject('/docs/js/scalar.js');
  await app.close();
  if (statusCode !== 200) throw new Error(`the viewer cannot be read: ${statusCode}`);
  return body.replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n'); // the map is not there
}

function write(name, text) {
  const bytes = Buffer.from(text);
  writeFileSync(new URL(name, TARGET), bytes);
  writeFileSync(new URL(`${name}.gz`, TARGET), gzipSync(bytes, { level: 9 }));
  // The highest quality takes ten seconds for a tenth less.
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: 9,
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
  };
  writeFileSync(new URL(`${name}.br`, TARGET), brotliCompressSync(bytes, { params }));
}

const read = (name) => readFileSync(new URL(name, SOURCE), 'utf8');
const assets = { 'page.css': read('page.css'), 'page.js': read('page.js'), 'viewer.js': await readViewer() };

rmSync(TARGET, { recursive: true, force: true });
mkdirSync(TARGET, { recursive: true });
let page = read('index.html');
for (const [name, text] of Object.entries(assets)) {
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 12);
  const hashed = name.replace('.', `.${hash}.`);
  write(hashed, text);
  page = page.replace(`/docs/${name}`, `/docs/${hashed}`);
}
write('index.html', page);
