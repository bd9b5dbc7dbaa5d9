import { findProgram } from './find-program.js';

/** The path of a C compiler; root on Debian or Ubuntu gets one installed. Else throws the line to run. */
export function findCompiler(): Promise<string> {
  return findProgram({
    title: 'C compiler',
    names: ['cc', 'gcc', 'clang'],
    aptPackages: ['gcc', 'libc6-dev'],
    otherwise: 'apk add build-base (or your package manager)',
  });
}
