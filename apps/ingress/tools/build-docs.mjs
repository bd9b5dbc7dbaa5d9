// Builds the page of GET /docs in dist/docs: the files of docs/ and the viewer, with a content hash in each name, and
// compressed, so that the ingress only sends them.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { runInNewContext } from 'node:vm';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const SOURCE = new URL('../docs/', import.meta.url);
const TARGET = new URL('../dist/docs/', import.meta.url);

/** The languages of the snippet tabs. The newest viewer that supports Node 20 has no option for them. */
const FEATURED_CLIENTS = {
  from: '`shell/curl`,`ruby/native`,`node/undici`,`php/guzzle`,`python/python3`',
  to: '`shell/curl`,`js/fetch`,`python/requests`,`php/curl`',
};

/**
 * Extracts the Scalar viewer from Scalar's Fastify plugin, which contains it as a string; Scalar's own package has 270
 * dependencies. The plugin never runs: its imports need Node 22, so `overrides` in package.json replaces them with an
 * empty package.
 */
function readViewer() {
  const plugin = readFileSync(new URL(import.meta.resolve('@scalar/fastify-api-reference')), 'utf8');
  const [, literal] = /^var standalone_default = (".*");$/m.exec(plugin) ?? [];
  if (!literal)
    throw new Error('could not find the viewer in @scalar/fastify-api-reference; adapt readViewer to its new version');
  const viewer = runInNewContext(literal);
  if (!viewer.includes(FEATURED_CLIENTS.from))
    throw new Error(
      'could not find the list of featured languages in the viewer; adapt FEATURED_CLIENTS to its new version',
    );
  return viewer.replace(FEATURED_CLIENTS.from, FEATURED_CLIENTS.to).replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n');
}

function write(name, text) {
  const bytes = Buffer.from(text);
  writeFileSync(new URL(name, TARGET), bytes);
  writeFileSync(new URL(`${name}.gz`, TARGET), gzipSync(bytes, { level: 9 }));
  // The highest quality takes ten seconds and saves only 10 % more.
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: 9,
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
  };
  writeFileSync(new URL(`${name}.br`, TARGET), brotliCompressSync(bytes, { params }));
}

const read = (name) => readFileSync(new URL(name, SOURCE), 'utf8');
const assets = { 'page.css': read('page.css'), 'page.js': read('page.js'), 'viewer.js': readViewer() };

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
