# The control role: workflows, decisions and the store's activities. Host and director roles run where libvirt and LVS
# are, from the same build (docs/how-to); they need the native part, which is not in this image.

FROM node:20-bookworm-slim AS build
WORKDIR /ciel
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN npm run build:ts && npm prune --omit=dev --no-audit --no-fund

FROM node:20-bookworm-slim
WORKDIR /ciel
ENV NODE_ENV=production
COPY --from=build /ciel/package.json ./
COPY --from=build /ciel/node_modules ./node_modules
COPY --from=build /ciel/dist ./dist
USER node
# Node as process 1 gets SIGTERM itself and ends in order.
ENTRYPOINT ["node", "--enable-source-maps", "dist/worker.js"]
CMD ["--role", "control"]
