import { bool, type Env, port, STORE_ENV, str } from '@opm/runtime';

export const CONSOLE_ENV = {
  ...STORE_ENV,
  CONSOLE_HOST: str({ default: undefined, desc: 'address to listen on; all of them where it is not given' }),
  CONSOLE_PORT: port({ default: 3001, desc: 'port of the Bull dashboard' }),
  INTERNAL_PORT: port({ default: 9402, desc: 'port of /livez, /readyz and /metrics' }),
  CONSOLE_PASSWORD: str({ desc: 'password of the dashboard; there is no default' }),
  CONSOLE_SHOW_DATA: bool({ default: false, desc: 'true shows what partners sent; masked otherwise' }),
  CONSOLE_READ_ONLY: bool({ default: true, desc: 'false allows to retry and promote jobs and to pause queues' }),
};

export type ConsoleConfig = Env<typeof CONSOLE_ENV>;
