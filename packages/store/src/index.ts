export type { ApiKeys, StoredApiKey } from './api-keys.js';
export type { Customers, StoredCustomer } from './customers.js';
export type { DeadLetter, DeadLetters, StoredDeadLetter } from './dead-letters.js';
export type { Project, Projects } from './projects.js';
export { createStore, type Store, type StoreOptions } from './store.js';
export { isRefusal, StoreError } from './store-error.js';
