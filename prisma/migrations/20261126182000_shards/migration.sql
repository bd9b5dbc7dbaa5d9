-- How many shards the queue that lives in PostgreSQL has: one row, which packages/queue/src/agree-on-shards.ts asks for.
CREATE TABLE admission.layout (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    shards integer NOT NULL
);
