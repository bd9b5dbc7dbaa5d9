import { createHmac, hash, pbkdf2Sync, randomBytes } from 'node:crypto';
import { StoreError } from './store-error.js';

const ITERATIONS = 4_096;
/** PostgreSQL prepares others with SASLprep first, which leaves these as they are. */
const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;

/**
 * What PostgreSQL keeps of a password, made here so that the password is in none of its logs: RFC 5803, as
 * https://www.postgresql.org/docs/current/catalog-pg-authid.html has it.
 * @throws StoreError where the password has other characters than printable ones of ASCII
 */
export function toScramVerifier(password: string): string {
  if (!PRINTABLE_ASCII.test(password)) throw new StoreError('its password may have printable characters of ASCII only');
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, ITERATIONS, 32, 'sha256');
  const keyOf = (label: string) => createHmac('sha256', salted).update(label).digest();
  const storedKey = hash('sha256', keyOf('Client Key'), 'base64');
  const serverKey = keyOf('Server Key').toString('base64');
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString('base64')}$${storedKey}:${serverKey}`;
}
