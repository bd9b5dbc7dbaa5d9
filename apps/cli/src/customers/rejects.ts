import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { toJson } from '../print.js';
import { toUserError, UserError } from '../user-error.js';
import type { Line } from './line.js';

export type Rejects = {
  add(line: Line, reason: string): void;
  /** `isWhole`: all lines were read, so that an older file of theirs says nothing any more. */
  close(options: { isWhole: boolean }): void;
};

/**
 * Gathers the lines that were rejected, as NDJSON, beside the file; at the end, where there are some, they take its place.
 * @throws UserError where it cannot be written, or is none of ours: what it holds stays
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
    throw new UserError(`${file} is the file to import: name another one with --rejected`);
  }
  if (!found.isFile() || (found.size > 0 && !isOurs(file))) {
    throw new UserError(`${file} is there and holds no rejected lines: name another one with --rejected`);
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
