/**
 * PostgreSQL's text form of a one-dimensional array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).
 * As one string it passes Prisma as one value; as an array, every element costs a visit there and another one in pg.
 */
export function toArrayLiteral(values: (string | number | null)[]): string {
  let literal = '{';
  for (const value of values) {
    if (literal.length > 1) literal += ',';
    literal += typeof value === 'string' ? quote(value) : (value ?? 'NULL');
  }
  return `${literal}}`;
}

const SPECIAL = /["\\]/;
const SPECIALS = /["\\]/g;

function quote(text: string): string {
  return `"${SPECIAL.test(text) ? text.replace(SPECIALS, '\\$&') : text}"`;
}
