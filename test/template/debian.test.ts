import { describe, expect, it } from 'vitest';
import { moduleOrder } from '../../template/debian.ts';

const MODULES_DEP = [
  'kernel/drivers/virtio/virtio_ring.ko:',
  'kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko',
  'kernel/net/core/failover.ko:',
  'kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko',
  'kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko',
  'kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko',
].join('\n');

describe('the order in which modules are loaded', () => {
  const order = moduleOrder(MODULES_DEP);

  it('puts each after all that it depends on, once', () => {
    const paths = order(['virtio_net', 'virtio_rng']);
    expect(paths).toHaveLength(6);
    for (const line of MODULES_DEP.split('\n')) {
      const [path, rest] = line.split(':') as [string, string];
      for (const dependency of rest.split(' ').filter(Boolean))
        expect(paths.indexOf(dependency)).toBeLessThan(paths.indexOf(path));
    }
  });

  it('takes dashes and underscores in names for the same', () => {
    expect(order(['virtio-rng'])).toEqual(order(['virtio_rng']));
  });

  it('names a module that the kernel does not have', () => {
    expect(() => order(['virtio_teapot'])).toThrow('virtio_teapot');
  });
});
