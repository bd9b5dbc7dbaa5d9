/** What a project may send: `burst` entries at once, and `rate` more with every second. Whole numbers from 1 up. */
export type RateLimit = { rate: number; burst: number };
