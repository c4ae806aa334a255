/** Reserves what a new replica needs, and gives it back: placement by the policy, uniqueness and capacity by the store. */
import type { ControlActivities } from '../model/activities.ts';
import { placeVm } from '../policy/placement.ts';
import type { Store } from '../store/database.ts';
import { release, reserve } from '../store/reservations.ts';

export function createReservationActivities(store: Store): Pick<ControlActivities, 'reserve' | 'release'> {
  return {
    reserve({ operation, spec, ordinal, size, avoidHosts }) {
      return reserve(store, { operation, spec, ordinal, size }, (hosts) => {
        const dead = hosts.filter(({ alive }) => !alive).map(({ host }) => host);
        return placeVm(hosts, size, [...avoidHosts, ...dead]);
      });
    },
    release({ replicaId }) {
      return release(store, replicaId);
    },
  };
}
