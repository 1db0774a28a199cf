// AssemblyScript's integer names, so that the contract type-checks as plain TypeScript too.
declare type i32 = number;
declare type u32 = number;
declare type u16 = number;
declare type f64 = number;
