/**
 * PostgreSQL's text form of a one-dimensional array (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).
 * As one string it passes Prisma and pg as one value; as an array, each of them visits every element.
 */
export function toArrayLiteral<T>(items: T[], pick: (item: T) => string | number | undefined): string {
  const values = items.map((item) => {
    const value = pick(item);
    return typeof value === 'string' ? toElement(value) : (value ?? 'NULL');
  });
  return `{${values.join(',')}}`;
}

/** What PostgreSQL surely takes as it is. Prisma makes JSON of the literal, which would escape each quote. */
const PLAIN = /^(?!null$)[\w@+.-](?:[\w@+. -]*[\w@+.-])?$/i;

function toElement(text: string): string {
  if (PLAIN.test(text)) return text;
  return `"${text.includes('"') || text.includes('\\') ? text.replace(/["\\]/g, '\\$&') : text}"`;
}
