import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { ComposeProject, Inspected } from './compose-project.js';

/** The ports at which any container listens. */
const PORTS = [3000, 3001, 5432, 6379, 9090, 9400, 16379];
const OUTSIDE_PORT = 4444;

/** Prints the arguments HOST:PORT to which a connection can be opened. */
const CONNECT_ALL = `
  for (const target of process.argv.slice(1)) {
    const [host, port] = target.split(':');
    const socket = require('node:net').connect({ host, port, timeout: 10_000 });
    socket.on('connect', () => console.log(target)).on('error', () => {});
    for (const end of ['connect', 'timeout']) socket.on(end, () => socket.destroy());
  }`;
const LISTEN = `require('node:net').createServer((socket) => socket.end()).listen(${OUTSIDE_PORT}, '0.0.0.0')`;

/**
 * Tries as an attacker in each container of a project to open a connection to every port of every other container, to
 * the machine, and to an address outside.
 * @returns for each service what it reaches, such as `postgres:5432`, `machine` or `outside`
 */
export async function findReach(stack: ComposeProject, image: string): Promise<Record<string, string[]>> {
  const names = new Map<string, string>();
  const services = Object.entries(await stack.inspectServices()).filter(([, { State }]) => State.Status === 'running');
  for (const [service, container] of services) {
    for (const address of findAddresses(container))
      for (const port of PORTS) names.set(`${address}:${port}`, `${service}:${port}`);
  }
  const machine = createServer((socket) => socket.on('error', () => {}).end());
  await new Promise<void>((resolve) => machine.listen(0, '0.0.0.0', resolve));
  const { port } = machine.address() as { port: number };
  const gateways = await stack.docker('network', 'inspect', ...(await stack.list('network')));
  const places: { IPAM: { Config: { Gateway: string }[] } }[] = JSON.parse(gateways);
  const own = Object.values(networkInterfaces()).flatMap((found = []) => found);
  for (const address of [
    ...places.flatMap(({ IPAM }) => IPAM.Config.map(({ Gateway }) => Gateway)),
    ...own.filter(({ family, internal }) => family === 'IPv4' && !internal).map((found) => found.address),
  ])
    names.set(`${address}:${port}`, 'machine');
  const outside = await createOutside(stack, image);
  names.set(outside.target, 'outside');
  try {
    const reached = services.map(async ([service, { Id }]) => {
      // In the network of that container, because not every image has a program that connects.
      const run = ['run', '--rm', '--network', `container:${Id}`, '--entrypoint', 'node', image, '-e', CONNECT_ALL];
      const targets = [...names].filter(([, name]) => !name.startsWith(`${service}:`)).map(([target]) => target);
      const found = (await stack.docker(...run, ...targets)).split('\n').filter(Boolean);
      return [service, [...new Set(found.map((target) => names.get(target) as string))].sort()] as const;
    });
    return Object.fromEntries(await Promise.all(reached));
  } finally {
    await outside.remove();
    await new Promise((resolve) => machine.close(resolve));
  }
}

const findAddresses = ({ NetworkSettings }: Inspected): string[] =>
  Object.values(NetworkSettings.Networks)
    .map(({ IPAddress }) => IPAddress)
    .filter(Boolean);

/**
 * A host on the other side of a cable: the machine routes to it, but it knows no way to the networks of Docker, as
 * hosts on the internet do not.
 */
async function createOutside(stack: ComposeProject, image: string) {
  const name = `${stack.name}-outside`;
  await stack.docker(
    ...['run', '--detach', '--name', name, '--network', 'none', '--entrypoint', 'node', image, '-e', LISTEN],
  );
  const pid = await stack.docker('container', 'inspect', '--format', '{{.State.Pid}}', name);
  const cable = `opm-${pid}`;
  // Other runs have other addresses.
  const block = (Number(pid) % 64) * 4;
  const [machine, address] = [`203.0.113.${block + 1}`, `203.0.113.${block + 2}`];
  // Where this process runs: that needs no root here, and no `ip` in the image.
  const onMachine = (...commands: string[]) =>
    stack.docker(
      ...['run', '--rm', '--privileged', '--network', 'host', '--pid', 'host', '--user', 'root', '--entrypoint'],
      ...['nsenter', image, '--target', String(process.pid), '--mount', '--net', 'sh', '-ec', commands.join('\n')],
    );
  await onMachine(
    `ip link add ${cable} type veth peer name eth0 netns ${pid}`,
    `ip address add ${machine}/30 dev ${cable}`,
    `ip link set ${cable} up`,
    `nsenter --target ${pid} --net ip address add ${address}/30 dev eth0`,
    `nsenter --target ${pid} --net ip link set eth0 up`,
  );
  return {
    target: `${address}:${OUTSIDE_PORT}`,
    /** The cable goes with the container. */
    remove: () => stack.docker('rm', '--force', name),
  };
}
