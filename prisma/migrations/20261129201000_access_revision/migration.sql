-- One row that is another one whenever keys end or limits change. Ingresses read it twice a second, and look their keys up
-- again only if it is not what it was.
-- CreateTable
CREATE TABLE "access_revision" (
    "is_only" BOOLEAN NOT NULL DEFAULT true CHECK ("is_only"),
    "revision" UUID NOT NULL DEFAULT gen_random_uuid(),

    CONSTRAINT "access_revision_pkey" PRIMARY KEY ("is_only")
);

INSERT INTO "access_revision" DEFAULT VALUES;

CREATE FUNCTION change_access_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.access_revision DEFAULT VALUES ON CONFLICT (is_only) DO UPDATE SET revision = excluded.revision;
    RETURN NULL;
END $$;

-- A new key changes nothing for those that ingresses know.
CREATE TRIGGER api_keys_change AFTER UPDATE OR DELETE OR TRUNCATE ON "api_keys"
FOR EACH STATEMENT EXECUTE FUNCTION change_access_revision();

CREATE TRIGGER projects_change AFTER UPDATE OR DELETE OR TRUNCATE ON "projects"
FOR EACH STATEMENT EXECUTE FUNCTION change_access_revision();
