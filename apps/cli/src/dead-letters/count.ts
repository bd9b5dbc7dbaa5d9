export const countAll = (groups: { count: number }[]): number => groups.reduce((total, { count }) => total + count, 0);

export const toLetters = (count: number): string => `${count} dead ${count === 1 ? 'letter' : 'letters'}`;
