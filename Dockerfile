# The image of one app: docker build --build-arg APP=ingress --tag opm-ingress .
# APP is ingress, worker or console. The command line, which migrates too: --build-arg APP=cli --target migrate.
ARG NODE_IMAGE=node:24-slim

FROM ${NODE_IMAGE} AS base
WORKDIR /opm

FROM base AS sources
COPY . .
RUN --mount=type=cache,target=/root/.npm \
  npm install --global "turbo@$(node -p "require('./package.json').devDependencies.turbo")" \
  && turbo prune @opm/ingress @opm/worker @opm/console @opm/cli --docker

# The same for every app, so that images that are built together install and build once.
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

# What this app needs of the repository, with a lockfile of its own: other apps' changes leave its layers as they are.
FROM sources AS pruned
ARG APP
RUN rm -r out && turbo prune "@opm/${APP}" --docker

# Its dependencies alone. What the repository is developed with goes first, or the command line of Prisma, which is an
# optional peer of its client, would count as one of them. Then what no process ever loads: Prisma's compilers of queries
# for other databases, types and source maps.
FROM base AS dependencies
ARG APP
COPY --from=pruned /opm/out/json .
RUN --mount=type=cache,target=/root/.npm \
  npm pkg delete devDependencies && npm install --package-lock-only && npm ci --omit=dev \
  && find . -type f \( -path '*/@prisma/client/runtime/query_compiler_*' ! -name '*.postgresql.*' \
    -o -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

FROM base AS image
ARG APP
ENV NODE_ENV=production INTERNAL_PORT=9400
COPY --from=dependencies /opm .
RUN --mount=type=bind,from=built,source=/opm,target=/built \
  for room in apps/* packages/*; do cp -r "/built/$room/." "$room"; done \
  && ln -s "apps/${APP}/dist/main.js" main.js
USER node

# With APP=cli: the command line `opm`, and all that `opm migrate` needs.
FROM image AS migrate
COPY prisma.config.ts .
COPY tools/schema-engine.mjs tools/
COPY prisma prisma
# The path is whole, for a --workdir may be given with the files to import.
ENTRYPOINT ["node", "/opm/main.js"]
CMD ["migrate"]

FROM image AS app
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.INTERNAL_PORT}/readyz`).then(async (answer) => { console.log(await answer.text()); process.exitCode = answer.ok ? 0 : 1; })"]
CMD ["node", "main.js"]
