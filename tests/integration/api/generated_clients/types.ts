// The types that openapi-typescript generates, used as an application would.
import type { components, paths } from "./schema";

type NewMailing = paths["/api/v1/mailings"]["post"]["requestBody"]["content"]["application/json"];
type Created = paths["/api/v1/mailings"]["post"]["responses"]["201"]["content"]["application/json"];

export const newMailing: NewMailing = {
  text: "Hello",
  start_at: "2030-12-02T09:00:00+03:00",
  end_at: "2030-12-02T21:00:00+03:00",
  filter: { tags: ["vip"] },
  window: { from: "09:00", to: "21:00" },
};
export const optOuts: components["schemas"]["NewOptOuts"] = { phones: ["79161234567"] };
export const finished = (mailing: Created): boolean => mailing.status === "finished";
export const reason = (problem: components["schemas"]["ProblemAnswer"]): string => problem.detail;
// @ts-expect-error: there is no such status
export const wrong = (mailing: Created): boolean => mailing.status === "done";
