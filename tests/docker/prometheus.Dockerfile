# Debian's Prometheus in place of the image of docker-compose.yml: same command line, same user and folders.
FROM debian:trixie-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus wget \
  && rm -rf /var/lib/apt/lists/* && install -d -o nobody -g nogroup /prometheus
ENTRYPOINT ["prometheus"]
