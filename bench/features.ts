// The third comparison of the report: what each way to connect a virtual machine offers. Facts from the documentation of
// the alternatives (QEMU, DPDK, Open vSwitch, vendors of SR-IOV cards); for xvio, what its tests show.

const YES = 'yes';
const NO = 'no';

const COLUMNS = [
  'xvio',
  'virtio (kernel bridge)',
  'OVS-DPDK',
  'SR-IOV',
  'relay (virtio over a VF)',
];

const ROWS: readonly (readonly [string, ...string[]])[] = [
  ['driver in the guest', 'virtio-net', 'virtio-net', 'virtio-net', "the vendor's", 'virtio-net'],
  ['live migration', YES, YES, YES, 'not in general', YES],
  ['packets leave the kernel out', YES, NO, YES, YES, YES],
  ['idle switch without CPU', YES, YES, 'no (polls)', YES, 'no (polls)'],
  ['hugepages needed', NO, NO, YES, NO, YES],
  ['guest to guest without the card', YES, YES, YES, NO, NO],
  ['OpenFlow pipeline', YES, NO, YES, 'what the card offloads', NO],
  [
    'connection tracking, security groups',
    YES,
    'iptables, nftables',
    YES,
    'what the card offloads',
    NO,
  ],
  ['OVSDB, ovs-vsctl', YES, NO, YES, NO, NO],
  ['every drop has a name', YES, NO, 'some', NO, NO],
  ['native code of its own', NO, 'kernel', YES, 'firmware', YES],
];

export function featureTable(): string {
  return [
    `| | ${COLUMNS.join(' | ')} |`,
    `| --- |${COLUMNS.map(() => ' --- |').join('')}`,
    ...ROWS.map((row) => `| ${row.join(' | ')} |`),
  ].join('\n');
}
