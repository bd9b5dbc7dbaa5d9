import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { toJson } from '../print.js';
import { toUserError, UserError } from '../user-error.js';
import type { Line } from './read-lines.js';

export type Rejects = {
  add(line: Line, reason: string): void;
  /** `isWhole`: all lines were read. Without rejected lines, the file of an earlier import is then deleted. */
  close(options: { isWhole: boolean }): void;
};

/**
 * Collects rejected lines as NDJSON in a temporary file beside `file`. `close` renames it to `file` if there are any.
 * @throws UserError if `file` cannot be written, or holds something other than rejected lines, which is then kept
 */
export function createRejects(file: string, importedFile: string): Rejects {
  const newFile = `${file}.${randomUUID()}`;
  const descriptor = attempt(() => {
    assertReplaceable(file, importedFile);
    return openSync(newFile, 'wx', 0o600);
  });
  let isEmpty = true;
  return {
    add({ number, text }, reason) {
      isEmpty = false;
      attempt(() => writeSync(descriptor, `${toJson({ line: number, reason, text })}\n`));
    },
    close({ isWhole }) {
      attempt(() => {
        closeSync(descriptor);
        if (!isEmpty) return renameSync(newFile, file);
        rmSync(newFile);
        if (isWhole) rmSync(file, { force: true });
      });
    },
  };

  function attempt<T>(use: () => T): T {
    try {
      return use();
    } catch (error) {
      throw toUserError(error, `${file} cannot be written`);
    }
  }
}

function assertReplaceable(file: string, importedFile: string): void {
  const found = statSync(file, { throwIfNoEntry: false });
  if (!found) return;
  const imported = statSync(importedFile);
  if (found.dev === imported.dev && found.ino === imported.ino) {
    throw new UserError(`${file} is the file to import: choose another one with --rejected`);
  }
  if (!found.isFile() || (found.size > 0 && !isOurs(file))) {
    throw new UserError(`${file} already exists and does not hold rejected lines: choose another one with --rejected`);
  }
}

function isOurs(file: string): boolean {
  const start = Buffer.alloc(64);
  const descriptor = openSync(file, 'r');
  try {
    const length = readSync(descriptor, start);
    return /^\{"line":\d+,"reason":"/.test(start.toString('latin1', 0, length));
  } finally {
    closeSync(descriptor);
  }
}
