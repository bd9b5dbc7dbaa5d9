import { fileURLToPath } from 'node:url';

/** A path inside the repository, wherever the command is called from. */
export function inRepository(path: string): string {
  return fileURLToPath(new URL(`../../../../${path}`, import.meta.url));
}
