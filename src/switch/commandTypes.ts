// What a unixctl command is, as the switch offers it: the control socket (src/control/appctl) takes the same shape.

/** A failed command: the text is what ovs-appctl shows. */
export class CommandFailure extends Error {}

export interface SwitchCommand {
  name: string;
  /** Shown by list-commands. */
  usage: string;
  minArgs: number;
  maxArgs: number;
  run(args: readonly string[]): string | Promise<string>;
}
