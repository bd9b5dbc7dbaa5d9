import { hash, randomInt } from 'node:crypto';
import { BlockList, isIP } from 'node:net';
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

/** Whether the text may be the label of a key. */
export const isKeyLabel = (text: string): boolean => /^\P{Cc}{1,100}$/u.test(text);

/** What a key may be allowed to do: send entries, read what is stored, erase customers. */
export const SCOPES = ['write', 'read', 'erase'] as const;

export type Scope = (typeof SCOPES)[number];

/** What a key may do, and the IP addresses and CIDR blocks that may use it; none means any address. */
export type KeyRules = { scopes: Scope[]; addresses: string[] };

export const MAX_KEY_ADDRESSES = 50;

/** The given rules as texts, such as `write, read` and `any`. */
export const toRuleTexts = ({ scopes, addresses }: Partial<KeyRules>): { scopes?: string; addresses?: string } => ({
  ...(scopes && { scopes: scopes.join(', ') }),
  ...(addresses && { addresses: addresses.join(', ') || 'any' }),
});

/** Whether the text is an IP address or a CIDR block, such as `203.0.113.7` or `2001:db8::/32`. */
export const isAddressRule = (text: string): boolean => parseAddressRule(text) !== undefined;

/**
 * Returns a function that reports whether an address matches a rule. An IPv4-mapped IPv6 address counts as IPv4. Text
 * that is not an address matches no rule. Invalid rules are ignored.
 */
export function createAddressCheck(rules: readonly string[]): (address: string) => boolean {
  let list: BlockList | undefined; // made with the first address: 50 rules take 0.3 ms
  return (address) => {
    const family = familyOf(address);
    list ??= toBlockList(rules);
    return family !== undefined && list.check(address, family);
  };
}

function toBlockList(rules: readonly string[]): BlockList {
  const list = new BlockList();
  for (const rule of rules) {
    const parsed = parseAddressRule(rule);
    if (parsed) list.addSubnet(parsed.address, parsed.prefix, parsed.family);
  }
  return list;
}

function parseAddressRule(text: string) {
  const [, address = '', given] = /^([\d.:a-f]{2,45})(?:\/(\d{1,3}))?$/i.exec(text) ?? [];
  const family = familyOf(address);
  const bits = family === 'ipv4' ? 32 : 128;
  const prefix = given === undefined ? bits : Number(given);
  return family && prefix <= bits ? { address, family, prefix } : undefined;
}

function familyOf(address: string): 'ipv4' | 'ipv6' | undefined {
  const version = isIP(address);
  return version === 0 ? undefined : version === 4 ? 'ipv4' : 'ipv6';
}

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
