/**
 * Calls `ask` once per item: at once, or after the earlier items that share a subject. So items that are in flight
 * together are independent, and their order does not matter.
 * @returns the answers in the order of the items, once all have arrived
 */
export async function askInTurn<Item, Answer>(
  items: { item: Item; subjects: string[] }[],
  ask: (item: Item) => Promise<Answer>,
): Promise<Answer[]> {
  const latest = new Map<string, Promise<Answer>>();
  const answers = items.map(({ item, subjects }) => {
    const earlier = subjects.flatMap((subject) => latest.get(subject) ?? []);
    const answer = earlier.length > 0 ? Promise.all(earlier).then(() => ask(item)) : ask(item);
    for (const subject of subjects) latest.set(subject, answer);
    return answer;
  });
  await Promise.allSettled(answers);
  return Promise.all(answers);
}
