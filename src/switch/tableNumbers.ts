// Tables of a bridge: 0 … 253 are the controllers', 254 belongs to the switch.

export const N_TABLES = 255;
export const HIDDEN_TABLE = 254;
