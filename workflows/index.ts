/** The workflows, by the names under which Temporal knows them (model/starts.ts). This is what is bundled. */
export { director } from './director.ts';
export { host } from './host.ts';
export { monitor } from './monitor.ts';
export { scaleIn } from './scale-in.ts';
export { scaleOut } from './scale-out.ts';
export { service } from './service.ts';
