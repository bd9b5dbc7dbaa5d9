declare module 'cluster-key-slot' {
  /** The Redis Cluster slot of a key, 0 to 16383. Uses the key's hash tag if it has one. */
  function calculateSlot(key: string): number;
  export = calculateSlot;
}
