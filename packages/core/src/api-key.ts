import { hash, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const RANDOM_LENGTH = 30; // log2(62^30) = 178 bits
const CHECKSUM_LENGTH = 6; // 62^6 > 2^32

/**
 * `opm_`, 30 random base62 characters, and their CRC-32 as 6 base62 characters. The checksum detects a typo or a
 * truncated key without a look-up.
 */
const API_KEY_PATTERN = /^opm_[0-9A-Za-z]{36}$/;

/** Creates a secret key. Show it to its owner once and store only its {@link hashApiKey}. */
export function createApiKey(): string {
  const random = Array.from({ length: RANDOM_LENGTH }, () => BASE62[randomInt(62)]).join('');
  return `opm_${random}${checksum(random)}`;
}

/** Whether the text has the form of a key and a correct checksum. The key need not exist. */
export function isApiKey(text: string): boolean {
  return API_KEY_PATTERN.test(text) && text.endsWith(checksum(text.slice(4, 4 + RANDOM_LENGTH)));
}

/** SHA-256 of the key, as 64 hex digits. A key has 178 random bits, so a slow or salted hash would add no security. */
export function hashApiKey(key: string): string {
  return hash('sha256', key, 'hex');
}

/** Whether an operator may call a key this. */
export const isKeyLabel = (text: string): boolean => /^\P{Cc}{1,100}$/u.test(text);

function checksum(text: string): string {
  let rest = crc32(text);
  let digits = '';
  for (let i = 0; i < CHECKSUM_LENGTH; i++) {
    digits = BASE62[rest % 62] + digits;
    rest = Math.floor(rest / 62);
  }
  return digits;
}

/**
 * Token bucket of a project: it holds `burst` entries and gains `rate` entries per second. Both are whole numbers of
 * 1 or more.
 */
export type RateLimit = { rate: number; burst: number };
