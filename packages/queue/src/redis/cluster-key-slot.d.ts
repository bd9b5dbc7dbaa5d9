declare module 'cluster-key-slot' {
  /** The slot of a key on Redis Cluster, 0 to 16383, by its hash tag where it has one. */
  function calculateSlot(key: string): number;
  export = calculateSlot;
}
