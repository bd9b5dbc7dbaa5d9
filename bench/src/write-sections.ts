import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const README = fileURLToPath(new URL('../README.md', import.meta.url));

/** Replaces what stands between `<!-- name:start -->` and `<!-- name:end -->` in the README. @throws Error when it has no such section */
export async function writeSections(sections: Map<string, string>): Promise<void> {
  let readme = await readFile(README, 'utf8');
  for (const [name, markdown] of sections) {
    const [start, end] = [`<!-- ${name}:start -->`, `<!-- ${name}:end -->`];
    const [from, to] = [readme.indexOf(start), readme.indexOf(end)];
    if (from < 0 || to < from) throw new Error(`bench/README.md has no section ${name}`);
    readme = `${readme.slice(0, from + start.length)}\n\n${markdown}\n\n${readme.slice(to)}`;
  }
  await writeFile(README, readme);
}
