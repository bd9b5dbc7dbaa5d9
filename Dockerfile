# Builds the image of one app: docker build --build-arg APP=ingress --tag opm-ingress .
# APP is ingress, worker or console. For the command line, which also migrates: --build-arg APP=cli --target migrate.
ARG NODE_IMAGE=node:24-slim

FROM ${NODE_IMAGE} AS base
WORKDIR /opm

FROM base AS sources
COPY . .
RUN --mount=type=cache,target=/root/.npm \
  npm install --global "turbo@$(node -p "require('./package.json').devDependencies.turbo")" \
  && turbo prune @opm/ingress @opm/worker @opm/console @opm/cli --docker

# The same for every app: images that are built together share one install and one build.
FROM base AS built
COPY --from=sources /opm/out/json .
RUN --mount=type=cache,target=/root/.npm npm ci
COPY --from=sources /opm/out/full .
COPY prisma prisma
COPY tools tools
COPY prisma.config.ts tsconfig.base.json ./
RUN npm run build \
  && find apps packages \( -name node_modules -o -name src -o -name test -o -name '*.tsbuildinfo' -o -name .turbo \
    -o -name '*.d.ts' -o -name '*.map' \) -prune -exec rm -r {} +

# The part of the repository that this app needs, with its own lockfile: changes to other apps do not change its layers.
FROM sources AS pruned
ARG APP
RUN rm -r out && turbo prune "@opm/${APP}" --docker

# The app's production dependencies. devDependencies are removed first: otherwise npm counts the Prisma CLI, an optional
# peer of the Prisma client, as a dependency. The last command deletes files that no process loads: Prisma's other
# query compilers, type declarations and source maps.
FROM base AS dependencies
ARG APP
COPY --from=pruned /opm/out/json .
RUN --mount=type=cache,target=/root/.npm \
  npm pkg delete devDependencies && npm install --package-lock-only && npm ci --omit=dev \
  && find . -type f \( -path '*/@prisma/client/runtime/query_compiler_*' ! -name '*_small_bg.postgresql.*' \
    -o -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

FROM base AS image
ARG APP
ENV NODE_ENV=production INTERNAL_PORT=9400
COPY --from=dependencies /opm .
RUN --mount=type=bind,from=built,source=/opm,target=/built \
  for room in apps/* packages/*; do cp -r "/built/$room/." "$room"; done \
  && ln -s "apps/${APP}/dist/main.js" main.js
USER node

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
