import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import type { Prisma, PrismaClient } from './generated/client.js';
import { StoreError, toStoreError } from './store-error.js';

/** In order: each role may do what the roles before it may do. */
export const ROLES = ['viewer', 'operator', 'admin'] as const;

export type Role = (typeof ROLES)[number];

/** `mayReveal`: may see what partners sent, unmasked. */
export type Operator = { name: string; role: Role; mayReveal: boolean };

export type StoredOperator = Operator & { createdAt: Date };

/**
 * The operator whose password is CONSOLE_PASSWORD, while no stored operator has the role admin. A password that several
 * people know names nobody, so it reveals nothing.
 */
export const BUILT_IN_OPERATOR: Operator = { name: 'admin', role: 'admin', mayReveal: false };

const MIN_PASSWORD_LENGTH = 12;

export type Operators = ReturnType<typeof createOperators>;

type SessionRow = { name: string | null; role: string | null; mayReveal: boolean | null };

/**
 * The people who may log in to the console, and their sessions. A session ends after `SESSION_HOURS`; a later login
 * removes its row.
 */
export function createOperators(prisma: PrismaClient) {
  const hasher = createHasher();

  /** PostgreSQL rejects some texts, such as one with a NUL, so it gets only names that an operator can have. */
  const findRow = async (name: string) =>
    NAME.test(name) ? toStoreError(() => prisma.operator.findUnique({ where: { name } })) : null;

  /** The operator's sessions; if the operator becomes an admin, also those of CONSOLE_PASSWORD. */
  const sessionsOf = (name: string, role?: Role) => ({
    where: role === 'admin' ? { OR: [{ operator: { name } }, { operatorId: null }] } : { operator: { name } },
  });

  /** Changes the operator, and ends all sessions that began before. @returns whether `where` selects an operator */
  async function update(
    where: { name: string; mayReveal?: boolean },
    data: { role?: Role; mayReveal?: boolean; passwordHash?: string },
    keepsAdmin = false,
  ) {
    const { name } = where;
    // Two statements: the second one also sees a session that was opened while the first one waited for the row.
    const { count } = await transact(async (client) => {
      if (keepsAdmin) await assertOtherAdmin(client, name);
      const updated = await client.operator.updateMany({ where, data });
      if (updated.count > 0) await client.operatorSession.deleteMany(sessionsOf(name, data.role));
      return updated;
    });
    return count > 0;
  }

  const transact = <T>(run: (client: Prisma.TransactionClient) => Promise<T>) =>
    toStoreError(() => prisma.$transaction(run));

  return {
    async list(): Promise<StoredOperator[]> {
      const select = { name: true, role: true, mayReveal: true, createdAt: true };
      const rows = await toStoreError(() => prisma.operator.findMany({ select, orderBy: { name: 'asc' } }));
      return rows.map((row) => ({ ...row, role: row.role as Role }));
    },

    async find(name: string): Promise<Operator | undefined> {
      const row = await findRow(name);
      return row ? toOperator(row) : undefined;
    },

    /** Whether a stored operator is an admin. If so, CONSOLE_PASSWORD opens nothing. */
    async hasAdmin(): Promise<boolean> {
      return (await toStoreError(() => prisma.operator.findFirst({ where: { role: 'admin' } }))) !== null;
    },

    /** @throws StoreError if the name is invalid or taken, or the password too short */
    async add({ password, ...operator }: Operator & { password: string }): Promise<void> {
      assertOperatorName(operator.name);
      const passwordHash = await hasher.hash(password);
      await transact(async (client) => {
        const data = { ...operator, passwordHash };
        const { count } = await client.operator.createMany({ data, skipDuplicates: true });
        if (count === 0) throw new StoreError(`an operator named "${operator.name}" already exists`);
        // `findSession` refuses those of CONSOLE_PASSWORD already. They would be valid again once the admin is removed.
        if (operator.role === 'admin') await client.operatorSession.deleteMany({ where: { operatorId: null } });
      });
    },

    /**
     * Removes the operator and ends its sessions. @returns whether there was such an operator
     * @throws StoreError with `keepsAdmin`, if it is the last admin
     */
    async remove(name: string, { keepsAdmin = false } = {}): Promise<boolean> {
      const { count } = await transact(async (client) => {
        if (keepsAdmin) await assertOtherAdmin(client, name);
        return client.operator.deleteMany({ where: { name } });
      });
      return count > 0;
    },

    /**
     * Sets the role and the right to reveal, and ends the operator's sessions.
     * @param mayGrant if false, an operator without the right to reveal cannot get it
     * @returns false if there is no such operator, or the right cannot be given
     * @throws StoreError with `keepsAdmin`, if it takes the role from the last admin
     */
    setRole: (
      name: string,
      role: { role: Role; mayReveal: boolean },
      { keepsAdmin = false, mayGrant = true } = {},
    ): Promise<boolean> =>
      update(
        { name, ...(role.mayReveal && !mayGrant && { mayReveal: true }) },
        role,
        keepsAdmin && role.role !== 'admin',
      ),

    /**
     * Sets the password and ends the operator's sessions.
     * @param mayGrant if false, an operator with the right to reveal keeps the old password
     * @returns false if the password was not set @throws StoreError if it is too short
     */
    setPassword: async (name: string, password: string, { mayGrant = true } = {}): Promise<boolean> =>
      update({ name, ...(!mayGrant && { mayReveal: false }) }, { passwordHash: await hasher.hash(password) }),

    /**
     * Opens a session if the password is right. An unknown name takes as long as a wrong password. Passwords are
     * checked one at a time, because each check takes 128 MiB.
     */
    async logIn(given: { name: string; password: string; tokenHash: string }): Promise<Operator | undefined> {
      const row = await findRow(given.name);
      const isRight = await hasher.verify(given.password, row?.passwordHash);
      if (!row || !isRight) return undefined;
      // Nothing is opened if the password has changed meanwhile. The lock makes `update` see the new session.
      const opened = await toStoreError(
        () => prisma.$executeRaw`
          WITH expired AS (DELETE FROM operator_sessions WHERE expires_at <= now())
          INSERT INTO operator_sessions (token_hash, operator_id, expires_at)
          SELECT decode(${given.tokenHash}, 'hex'), id, now() + ${SESSION_HOURS} * interval '1 hour' FROM operators
          WHERE id = ${row.id} AND password_hash = ${row.passwordHash} FOR SHARE`,
      );
      return opened > 0 ? toOperator(row) : undefined;
    },

    /** Opens a session of {@link BUILT_IN_OPERATOR}. @returns false if a stored operator is an admin */
    async logInBuiltIn(tokenHash: string): Promise<boolean> {
      const opened = await toStoreError(
        () => prisma.$executeRaw`
          WITH expired AS (DELETE FROM operator_sessions WHERE expires_at <= now())
          INSERT INTO operator_sessions (token_hash, expires_at)
          SELECT decode(${tokenHash}, 'hex'), now() + ${SESSION_HOURS} * interval '1 hour'
          WHERE NOT EXISTS (SELECT FROM operators WHERE role = 'admin')`,
      );
      return opened > 0;
    },

    /** @returns the operator with the current role; undefined if the session has ended */
    async findSession(tokenHash: string): Promise<Operator | undefined> {
      const [row] = await toStoreError(
        () => prisma.$queryRaw<SessionRow[]>`
          SELECT o.name, o.role, o.may_reveal AS "mayReveal"
          FROM operator_sessions s LEFT JOIN operators o ON o.id = s.operator_id
          WHERE s.token_hash = decode(${tokenHash}, 'hex') AND s.expires_at > now()
            AND (s.operator_id IS NOT NULL OR NOT EXISTS (SELECT FROM operators WHERE role = 'admin'))`,
      );
      if (!row) return undefined;
      const { name, role, mayReveal } = row;
      return name === null
        ? BUILT_IN_OPERATOR
        : toOperator({ name, role: role as string, mayReveal: mayReveal === true });
    },

    async endSession(tokenHash: string): Promise<void> {
      await toStoreError(
        () => prisma.$executeRaw`
          DELETE FROM operator_sessions WHERE token_hash = decode(${tokenHash}, 'hex')`,
      );
    },
  };
}

export const SESSION_HOURS = 12;

/**
 * Without an admin, CONSOLE_PASSWORD is accepted again. The lock makes changes of admins take turns.
 * @throws StoreError
 */
async function assertOtherAdmin(client: Prisma.TransactionClient, name: string): Promise<void> {
  const admins = await client.$queryRaw<{ name: string }[]>`
    SELECT name FROM operators WHERE role = 'admin' ORDER BY id FOR UPDATE`;
  if (admins.length === 1 && admins[0]?.name === name) {
    throw new StoreError(`${name} is the last admin: make another operator an admin first`);
  }
}

function toOperator({ name, role, mayReveal }: { name: string; role: string; mayReveal: boolean }): Operator {
  return { name, role: role as Role, mayReveal };
}

/** Typed on command lines and in a form; `-` and `admin` have a meaning of their own. */
const NAME = /^[a-z0-9][a-z0-9._@-]{0,63}$/;

/** @throws StoreError if it cannot be the name of a stored operator */
export function assertOperatorName(name: string): void {
  if (name === BUILT_IN_OPERATOR.name) throw new StoreError('the name "admin" belongs to CONSOLE_PASSWORD');
  if (NAME.test(name)) return;
  throw new StoreError(
    'an operator name must have 1 to 64 characters: lower-case letters, digits and . _ @ -, beginning with a letter or digit',
  );
}

/** A password that an operator gets, of 120 random bits. */
export const generatePassword = (): string => randomBytes(15).toString('base64url');

/** @throws StoreError if it is too short */
export function assertPassword(password: string): void {
  if ([...password].length >= MIN_PASSWORD_LENGTH) return;
  throw new StoreError(`a password must have at least ${MIN_PASSWORD_LENGTH} characters`);
}

/**
 * The first choice of OWASP for scrypt: 128 MiB and about 0.4 s per check.
 * https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#scrypt
 */
const COST = { N: 2 ** 17, r: 8, p: 1 };
const MAX_MEMORY = 256 * 1024 * 1024;
const HASH = /^scrypt\$N=(\d+),r=(\d+),p=(\d+)\$([\w-]+)\$([\w-]+)$/;

const deriveKey = promisify<string, Buffer, number, ScryptOptions, Buffer>(scrypt);

/**
 * Hashes passwords one at a time. A hash names its parameters (`scrypt$N=…,r=…,p=…$salt$key`), so they can change
 * later.
 */
function createHasher() {
  let turn: Promise<unknown> = Promise.resolve();
  /** An unknown name's password is compared with this. */
  const nobody = { ...COST, salt: randomBytes(16), key: randomBytes(32) };

  function derive(password: string, { salt, key, N, r, p }: typeof nobody): Promise<Buffer> {
    // Systems may encode the same characters differently.
    const derived = turn.then(() =>
      deriveKey(password.normalize('NFKC'), salt, key.length, { N, r, p, maxmem: MAX_MEMORY }),
    );
    turn = derived.catch(() => {});
    return derived;
  }

  return {
    /** @throws StoreError if the password is too short */
    async hash(password: string): Promise<string> {
      assertPassword(password);
      const salt = randomBytes(16);
      const key = await derive(password, { ...nobody, salt });
      const { N, r, p } = COST;
      return `scrypt$N=${N},r=${r},p=${p}$${salt.toString('base64url')}$${key.toString('base64url')}`;
    },

    /** @param stored if undefined, the check takes as long as any other, and fails */
    async verify(password: string, stored: string | undefined): Promise<boolean> {
      const [, N, r, p, salt = '', key = ''] = HASH.exec(stored ?? '') ?? [];
      const expected =
        N === undefined
          ? nobody
          : {
              N: Number(N),
              r: Number(r),
              p: Number(p),
              salt: Buffer.from(salt, 'base64url'),
              key: Buffer.from(key, 'base64url'),
            };
      const derived = await derive(password, expected);
      return timingSafeEqual(derived, expected.key) && expected !== nobody;
    },
  };
}
