/** The rights of users. The application revokes some of them temporarily. */

/** The topics that users may not use at present. */
export class Permissions {
  readonly #denied = new Map<string, number>();

  /**
   * Returns true if a user may use a topic.
   *
   * @returns True if the topic is not denied.
   */
  allows(user: string, topic: string): boolean {
    return !this.#denied.has(`${user} ${topic}`);
  }

  /**
   * Denies a topic to a user.
   *
   * @returns A function that ends this denial. It returns true if no other denial is left.
   */
  deny(user: string, topic: string): () => boolean {
    const key = `${user} ${topic}`;
    this.#denied.set(key, (this.#denied.get(key) ?? 0) + 1);
    return () => {
      const left = this.#denied.get(key)! - 1;
      if (left > 0) this.#denied.set(key, left);
      else this.#denied.delete(key);
      return left === 0;
    };
  }
}
