// Puts the page of GET /docs into dist: the files of docs/ and the viewer, each under a name that changes with its content,
// and compressed, so that the ingress has nothing to do but send them.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { runInNewContext } from 'node:vm';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const SOURCE = new URL('../docs/', import.meta.url);
const TARGET = new URL('../dist/docs/', import.meta.url);

/** The languages of snippets that have a tab. The newest viewer that supports Node 20 has no option for them. */
const FEATURED_CLIENTS = {
  from: '`shell/curl`,`ruby/native`,`node/undici`,`php/guzzle`,`python/python3`',
  to: '`shell/curl`,`js/fetch`,`python/requests`,`php/curl`',
};

/**
 * Scalar's own package has 270 dependencies; its plugin for Fastify has the viewer as a string. The plugin itself never
 * runs: what it imports needs Node 22, and is replaced by an empty stand-in (`overrides` in package.json).
 */
function readViewer() {
  const plugin = readFileSync(new URL(import.meta.resolve('@scalar/fastify-api-reference')), 'utf8');
  const [, literal] = /^var standalone_default = (".*");$/m.exec(plugin) ?? [];
  if (!literal) throw new Error('the viewer is not where it was in @scalar/fastify-api-reference');
  const viewer = runInNewContext(literal);
  if (!viewer.includes(FEATURED_CLIENTS.from))
    throw new Error('the viewer has another list of languages that it shows first');
  return viewer.replace(FEATURED_CLIENTS.from, FEATURED_CLIENTS.to).replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n'); // the map is not there
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
