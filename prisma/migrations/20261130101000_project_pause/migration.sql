-- A project with a time here is paused: its requests get 403. The trigger projects_change makes ingresses notice the change.
-- AlterTable
ALTER TABLE "projects" ADD COLUMN "paused_at" TIMESTAMPTZ(6);
