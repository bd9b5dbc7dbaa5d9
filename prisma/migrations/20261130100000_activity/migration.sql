-- What each project sent and what became of it, see packages/store/src/activity.ts. Each count is in one of the two tables:
-- in the minute in which a process reported it, and after three hours in the day of that minute (UTC).
-- CreateTable
CREATE TABLE "project_minutes" (
    "minute" TIMESTAMPTZ(0) NOT NULL,
    "project_id" INTEGER NOT NULL,
    "answered2xx" INTEGER NOT NULL DEFAULT 0,
    "answered4xx" INTEGER NOT NULL DEFAULT 0,
    "answered429" INTEGER NOT NULL DEFAULT 0,
    "answered5xx" INTEGER NOT NULL DEFAULT 0,
    "created" INTEGER NOT NULL DEFAULT 0,
    "updated" INTEGER NOT NULL DEFAULT 0,
    "erased" INTEGER NOT NULL DEFAULT 0,
    "refused_invalid" INTEGER NOT NULL DEFAULT 0,
    "refused_limited" INTEGER NOT NULL DEFAULT 0,
    "refused_unavailable" INTEGER NOT NULL DEFAULT 0,
    "persisted" INTEGER NOT NULL DEFAULT 0,
    "dead_letters" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "project_minutes_pkey" PRIMARY KEY ("minute", "project_id")
);

-- CreateTable
CREATE TABLE "project_days" (
    "day" DATE NOT NULL,
    "project_id" INTEGER NOT NULL,
    "answered2xx" BIGINT NOT NULL DEFAULT 0,
    "answered4xx" BIGINT NOT NULL DEFAULT 0,
    "answered429" BIGINT NOT NULL DEFAULT 0,
    "answered5xx" BIGINT NOT NULL DEFAULT 0,
    "created" BIGINT NOT NULL DEFAULT 0,
    "updated" BIGINT NOT NULL DEFAULT 0,
    "erased" BIGINT NOT NULL DEFAULT 0,
    "refused_invalid" BIGINT NOT NULL DEFAULT 0,
    "refused_limited" BIGINT NOT NULL DEFAULT 0,
    "refused_unavailable" BIGINT NOT NULL DEFAULT 0,
    "persisted" BIGINT NOT NULL DEFAULT 0,
    "dead_letters" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "project_days_pkey" PRIMARY KEY ("day", "project_id")
);

-- The running ingresses and workers. `report` is the number of the last report that was counted: a report that is sent
-- again, because its answer was lost, counts once. A process that ends deletes its row; one that was killed leaves it.
-- CreateTable
CREATE TABLE "processes" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "host" TEXT NOT NULL,
    "pid" INTEGER NOT NULL,
    "version" TEXT NOT NULL,
    "started_at" TIMESTAMPTZ(6) NOT NULL,
    "seen_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "report" INTEGER NOT NULL,
    "state" JSONB NOT NULL,

    CONSTRAINT "processes_pkey" PRIMARY KEY ("id")
);
