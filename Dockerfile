# Builds the image of one app: docker build --build-arg APP=ingress --tag opm-ingress .
# APP is ingress, worker or console. For the command line, which also migrates: --build-arg APP=cli --target migrate.
ARG NODE_IMAGE=node:24-slim

FROM ${NODE_IMAGE} AS base
WORKDIR /opm

# What decides which packages are installed: a change of other files installs nothing again.
FROM base AS manifests
COPY . .
RUN find . -type f ! -name package.json ! -name package-lock.json ! -name .npmrc -delete && find . -type d -empty -delete

# The same for every app: images that are built together share one install and one build.
FROM base AS built
COPY --from=manifests /opm .
RUN --mount=type=cache,target=/root/.npm npm ci
COPY . .
RUN npm run build \
  && find apps packages \( -name node_modules -o -name src -o -name test -o -name '*.tsbuildinfo' -o -name .turbo \
    -o -name '*.d.ts' -o -name '*.map' \) -prune -exec rm -r {} +

# The app's production dependencies, exactly as in package-lock.json. Only the command line needs the Prisma CLI, an optional
# peer of the Prisma client: without --omit=peer, and if other apps or devDependencies were left, every app would get it. The
# command line needs no optional dependency, such as the embedded PostgreSQL. The last command deletes files that no process
# loads: Prisma's other query compilers, type declarations and source maps.
FROM base AS dependencies
ARG APP
COPY --from=manifests /opm .
RUN --mount=type=cache,target=/root/.npm \
  find apps -mindepth 1 -maxdepth 1 ! -name "$APP" -exec rm -r {} + \
  && npm pkg delete devDependencies --workspaces --include-workspace-root \
  && npm ci --omit=dev --omit="$([ "$APP" = cli ] && echo optional || echo peer)" --workspace="@opm/$APP" \
  && for room in packages/*; do [ -e "node_modules/@opm/${room#*/}" ] || rm -r "$room"; done \
  && npm sbom --sbom-format=cyclonedx --sbom-type=application > sbom.cdx.json \
  && rm package-lock.json .npmrc \
  && find . -type f \( -path '*/@prisma/client/runtime/query_compiler_*' ! -name '*_small_bg.postgresql.*' \
    -o -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

# Without what only an attacker would use: npm, and programs that run as root for everybody.
FROM base AS image
ARG APP
ENV NODE_ENV=production INTERNAL_PORT=9400
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /opt/yarn* \
  && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=dependencies /opm .
RUN --mount=type=bind,from=built,source=/opm,target=/built \
  for room in apps/* packages/*; do cp -r "/built/$room/." "$room"; done \
  && ln -s "apps/${APP}/dist/main.js" main.js
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE
ARG NODE_IMAGE
RUN echo "${REVISION}" > revision
# A number, because Kubernetes cannot tell whether a name is root's.
USER 1000:1000
LABEL org.opencontainers.image.title="opm-${APP}" \
  org.opencontainers.image.description="OPM Partners API: ${APP}" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.source="${SOURCE}" \
  org.opencontainers.image.licenses="MIT" \
  org.opencontainers.image.base.name="${NODE_IMAGE}"

# With APP=cli: the `opm` command line and everything that `opm migrate` needs.
FROM image AS migrate
COPY prisma.config.ts .
COPY tools/schema-engine.mjs tools/
COPY prisma prisma
# An absolute path, because the user may pass --workdir with the files to import.
ENTRYPOINT ["node", "/opm/main.js"]
CMD ["migrate"]

FROM image AS app
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.INTERNAL_PORT}/readyz`).then(async (answer) => { console.log(await answer.text()); process.exitCode = answer.ok ? 0 : 1; })"]
CMD ["node", "main.js"]
