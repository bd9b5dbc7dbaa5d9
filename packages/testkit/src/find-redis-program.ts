import { findProgram } from './find-program.js';

/**
 * The path of a local Redis; root on Debian or Ubuntu gets it installed. Else throws the line to run.
 * @param alternative what else can be done, completing "…, or"
 */
export function findRedisProgram(alternative?: string): Promise<string> {
  return findProgram({
    title: 'Redis',
    names: ['redis-server', 'valkey-server'],
    aptPackages: ['redis-server'],
    otherwise: 'brew install redis (or your package manager)',
    alternative,
  });
}
