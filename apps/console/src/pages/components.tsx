import { toDuration, toNumber } from '@opm/operations';
import type { Role } from '@opm/store';
import type { Request, Response } from 'express';
import { type ComponentChildren, isValidElement } from 'preact';
import { renderToString } from 'preact-render-to-string';
import { CSRF_FIELD, type CurrentOperator, hasRole, operatorOf } from '../session.js';

/** The pages, and the least role that may see each. */
export const NAVIGATION: [path: string, name: string, role: Role][] = [
  ['/', 'Overview', 'viewer'],
  ['/partners', 'Partners', 'viewer'],
  ['/find', 'Find', 'viewer'],
  ['/dead-letters', 'Dead letters', 'viewer'],
  ['/queues', 'Queues', 'viewer'],
  ['/audit', 'Audit', 'operator'],
  ['/operators', 'Operators', 'admin'],
];

type PageProps = { title: string; children: ComponentChildren };

/** Sends a page, or an update of an open one. JSX escapes every value, so no page writes HTML as a string. */
export function sendPage(request: Request, response: Response, props: PageProps, status = 200): void {
  const operator = operatorOf(response);
  const { notice, update } = response.locals as { notice?: string; update?: (html: string) => void };
  const html = `<!doctype html>${renderToString(<Page path={request.path} {...{ operator, notice, ...props }} />)}`;
  if (update) update(html);
  else response.status(status).set('cache-control', 'no-store').type('html').send(html);
}

/** The answer while PostgreSQL is down. It needs no operator, because sessions cannot be read then. */
export function sendOutage(request: Request, response: Response): void {
  const then =
    request.method === 'GET' ? 'reload this page.' : 'check whether the change was made before you repeat it.';
  const text = `PostgreSQL does not answer. Start it, or find out why it cannot be reached; then ${then}`;
  sendPage(request, response, { title: 'Not available', children: <p>{text}</p> }, 503);
}

/** The answer if PostgreSQL ended a statement, because it took too long or waited for a lock. */
export function sendSlow(request: Request, response: Response): void {
  const then =
    request.method === 'GET'
      ? 'Try again, or narrow the filter.'
      : 'Check whether the change was made before you repeat it.';
  const text = `PostgreSQL needed more than 5 s for this. ${then}`;
  sendPage(request, response, { title: 'Not available', children: <p>{text}</p> }, 503);
}

/** `operator` is undefined before the login. */
export function Page({
  path,
  operator,
  notice,
  title,
  children,
}: PageProps & HeaderProps & { notice: string | undefined }) {
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>{`${title} – OPM console`}</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="/assets/console.css" />
        <script src="/assets/console.js" defer />
      </head>
      <body>
        <Header {...{ path, operator }} content="main" />
        <main id="main">
          <h1>{title}</h1>
          {notice && (
            <p class="good" role="status">
              {notice}
            </p>
          )}
          <p id="age" role="status" />
          {children}
        </main>
      </body>
    </html>
  );
}

type HeaderProps = { path: string; operator: CurrentOperator | undefined };

/** @param content id of the element that the first link leads to */
function Header({ path, operator, content }: HeaderProps & { content: string }) {
  const pages = operator ? NAVIGATION.filter(([, , role]) => hasRole(operator, role)) : [];
  const current = pages.findLast(([start]) => path === start || path.startsWith(`${start}/`))?.[0];
  return (
    <header class="console">
      <a class="skip" href={`#${content}`}>
        Skip to the content
      </a>
      <nav aria-label="Pages">
        {pages.map(([href, name]) => (
          <a key={href} href={href} aria-current={href === current ? 'page' : undefined}>
            {name}
          </a>
        ))}
      </nav>
      {operator && (
        <Form action="/logout" operator={operator}>
          <span>{`${operator.name} (${operator.role}${operator.isReadOnly ? ', read-only' : ''})`}</span>
          <button type="submit">Log out</button>
        </Form>
      )}
    </header>
  );
}

/** The header for the page of the Bull dashboard, which is not rendered here. */
export const renderHeader = (props: HeaderProps & { content: string }): string => renderToString(<Header {...props} />);

/** A form that changes something. It carries the token of the operator's session. */
export function Form(props: { action: string; operator: CurrentOperator; children: ComponentChildren }) {
  const { action, operator, children } = props;
  return (
    <form method="post" action={action}>
      <input type="hidden" name={CSRF_FIELD} value={operator.csrfToken} />
      {children}
    </form>
  );
}

/** A box that must be ticked before a change that is harmful or cannot be undone. */
export function Confirm({ children }: { children: ComponentChildren }) {
  return (
    <label class="confirm">
      <input type="checkbox" name="confirmed" required />
      {children}
    </label>
  );
}

/** An explanation below the fields of a form. */
export function Hint({ children }: { children: ComponentChildren }) {
  return <p class="hint">{children}</p>;
}

/** A secret that is shown once. `console.js` adds the button that copies it. */
export function Secret({ name, value, back }: { name: string; value: string; back: string }) {
  return (
    <>
      <p>
        {`${name}, shown only once: `}
        <code data-copy="">{value}</code>
      </p>
      <Back to={back} />
    </>
  );
}

export function Back({ to }: { to: string }) {
  return (
    <p>
      <a href={to} data-back="">
        Back
      </a>
    </p>
  );
}

/** A part of the page that `console.js` keeps up to date: see `createLive`. Parts need different ids. */
export function Live({ id, children }: { id: string; children: ComponentChildren }) {
  return (
    <div id={id} data-live="">
      {children}
    </div>
  );
}

export type Column<Row> = {
  title: ComponentChildren;
  /** Aligned to the right. */
  isNumber?: boolean;
  sort?: 'ascending' | 'descending' | undefined;
  cell: (row: Row) => ComponentChildren;
};

/** The text of a title, which may be a link. */
function toText(title: ComponentChildren): string {
  if (Array.isArray(title)) return title.map(toText).join('');
  if (isValidElement(title)) return toText(title.props.children as ComponentChildren);
  return typeof title === 'string' ? title : '';
}

/** A table. On a narrow screen, each row is a list of its cells. The first column names the row. */
export function Table<Row>({
  caption,
  columns,
  rows,
  empty,
}: {
  caption: string;
  columns: Column<Row>[];
  rows: Row[];
  empty: string;
}) {
  if (rows.length === 0) return <p class="empty">{empty}</p>;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a part that scrolls must be reachable by keyboard
    <section class="scroll" tabIndex={0} aria-label={caption}>
      <table>
        <caption>{caption}</caption>
        <thead>
          <tr>
            {columns.map(({ title, isNumber, sort }, i) => (
              <th key={i} scope="col" class={isNumber ? 'number' : undefined} aria-sort={sort}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, i) => (
            <tr key={i}>
              {columns.map(({ title, isNumber, cell }, j) => {
                const Cell = j === 0 ? 'th' : 'td';
                return (
                  <Cell
                    key={j}
                    scope={j === 0 ? 'row' : undefined}
                    class={isNumber ? 'number' : undefined}
                    data-title={j === 0 ? undefined : toText(title)}
                  >
                    {cell(row)}
                  </Cell>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** Names with values. */
export function Facts({ facts }: { facts: [name: string, value: ComponentChildren][] }) {
  return (
    <dl>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Such as `2026-11-30 10:12:33Z`; `–` for none. */
export function Time({ at }: { at: Date | null | undefined }) {
  if (!at) return <>–</>;
  const text = `${at.toISOString().slice(0, 19).replace('T', ' ')}Z`;
  return <time dateTime={at.toISOString()}>{text}</time>;
}

export const toMs = (ms: number | undefined): string => {
  if (ms === undefined) return '–';
  return ms < 10_000 ? `${toNumber(Math.ceil(ms))} ms` : toDuration(ms / 1_000);
};

export const toAge = (ms: number | undefined): string => (ms ? toDuration(ms / 1_000) : '–');

export const toRate = (rate: number): string => (rate >= 10 ? toNumber(rate) : String(Number(rate.toPrecision(2))));

const MAX_TEXT = 600; // an id has up to 255 characters, each up to two code units

/** A parameter of the URL; undefined if it is empty, repeated, too long or not storable. */
export function textOf(request: Request, name: string): string | undefined {
  const value = request.query[name];
  if (typeof value !== 'string' || value.length > MAX_TEXT || value.includes('\0')) return undefined;
  return value.trim() === '' ? undefined : value;
}

/** The id of a row that the URL may name. */
export const BIG_ID = /^\d{1,18}$/;

/** The row after which a list goes on; undefined for its beginning. */
export function beforeOf(request: Request): string | undefined {
  const id = textOf(request, 'before') ?? '';
  return BIG_ID.test(id) ? id : undefined;
}

/** The URL of a page with parameters; undefined ones are left out. */
export function toUrl(path: string, parameters: Record<string, string | number | undefined>): string {
  const given = Object.entries(parameters).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, `${value}`]],
  );
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}
