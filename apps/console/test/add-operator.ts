import { randomBytes, scryptSync } from 'node:crypto';
import type { Role } from '@opm/store';
import { query } from '@opm/testkit';

const COST = { N: 2, r: 8, p: 1 };

/** Adds an operator whose password is checked at once: with the cost of `store.operators.add`, a check takes 0.4 s. */
export async function addOperator(
  databaseUrl: string,
  { name, role, mayReveal = false, password }: { name: string; role: Role; mayReveal?: boolean; password: string },
): Promise<void> {
  const salt = randomBytes(16);
  const key = scryptSync(password, salt, 32, COST);
  const parameters = `N=${COST.N},r=${COST.r},p=${COST.p}`;
  const hash = `scrypt$${parameters}$${salt.toString('base64url')}$${key.toString('base64url')}`;
  await query(databaseUrl, 'INSERT INTO operators (name, role, may_reveal, password_hash) VALUES ($1, $2, $3, $4)', [
    name,
    role,
    mayReveal,
    hash,
  ]);
}
